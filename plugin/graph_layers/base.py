"""What layers over graphs share: parameters by name, settings, what is refused."""

from attnbridge.graph_operator import GraphOperator
from attnbridge.parameters import Parametrised
from attnbridge.validation import as_count


class Layer(Parametrised, GraphOperator):
    """A layer over graphs with trainable parameters, by the names of PyTorch Geometric's state_dict.

    Parameters
    ----------
    seed : int
        What the initial parameters are drawn from.
    """

    def __init__(self, seed: int) -> None:
        self.seed = as_count(seed, "seed", least=0)
        self._held = self._initial()
