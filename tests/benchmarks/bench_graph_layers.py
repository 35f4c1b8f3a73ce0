"""GATConv and GATv2Conv forward on plain arrays, beside PyTorch Geometric's layers with the same parameters.

Random graphs, 8 heads of 8, 64 features, loops added; eval mode, no gradients, one thread. Needs torch_geometric.
Run: python tests/benchmarks/bench_graph_layers.py [--rounds 30] [--layers GATConv GATv2Conv]
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch start their pools
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["ATTNBRIDGE_NUM_THREADS"] = "1"

import numpy as np
import torch
import torch_geometric
from common import arguments, interleaved, machine, medians, show, spread, verdict

import attnbridge as ab

# Nodes, edges, the share of PyTorch Geometric's time that GATConv may take, one round in so many.
SHAPES = ((1_000, 6_000, 0.2, 1), (1_000, 20_000, 0.33, 1), (100_000, 2_000_000, 0.33, 10))
FEATURES, HEADS, WIDTH = 64, 8, 8


def line(name: str, nodes: int, edges: int, most: float, rounds: int) -> tuple[object, ...]:
    """Return a line of the table: both layers' times on one graph."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((nodes, FEATURES)).astype(np.float32)  # noqa: N806
    edge_index = rng.integers(0, nodes, (2, edges))
    theirs = getattr(torch_geometric.nn, name)(FEATURES, WIDTH, heads=HEADS).eval()
    ours = getattr(ab, name)(FEATURES, WIDTH, heads=HEADS)
    ours.set_parameters({key: tensor.numpy() for key, tensor in theirs.state_dict().items()})
    x, index = torch.from_numpy(X), torch.from_numpy(edge_index)
    runs = {"ours": lambda _: ours.graph_forward(X, edge_index), "PyG": lambda _: theirs(x, index)}
    with torch.no_grad():
        difference = np.abs(ours.graph_forward(X, edge_index).features - theirs(x, index).numpy()).max()
        seconds = interleaved(runs, rounds)
    assert difference <= 1e-5
    middle = medians(seconds)
    share = middle["ours"] / middle["PyG"]
    return (
        name,
        f"{nodes:,}",
        f"{edges:,}",
        f"{1e3 * middle['ours']:,.2f}",
        spread(seconds["ours"]),
        f"{1e3 * middle['PyG']:,.2f}",
        spread(seconds["PyG"]),
        verdict(share, most=most) if name == "GATConv" else f"{share:.3f}",
        f"{difference:.0e}",
    )


def main() -> None:
    parser = arguments(__doc__, rounds=30)
    parser.add_argument("--layers", nargs="+", choices=("GATConv", "GATv2Conv"), default=["GATConv", "GATv2Conv"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        line(name, nodes, edges, most, max(3, options.rounds // part))
        for name in options.layers
        for nodes, edges, most, part in SHAPES
    ]
    show(
        f"{HEADS} heads of {WIDTH}, {FEATURES} features, one thread, PyTorch Geometric {torch_geometric.__version__} "
        f"({machine()})",
        ["layer", "nodes", "edges", "ours, ms", "quartiles", "PyG, ms", "quartiles", "of PyG's", "difference"],
        lines,
    )


if __name__ == "__main__":
    main()
