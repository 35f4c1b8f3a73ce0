"""Presets: what well-known models attend by, as builders; and builders by what they are for."""

from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from attnbridge.config import nearest_divisor
from attnbridge.errors import InvalidConfigError
from attnbridge.sdk.builder import AttentionBuilder
from attnbridge.validation import as_bool, as_count


class Preset(NamedTuple):
    """A row of the table of presets.

    Parameters
    ----------
    build : callable
        (AttentionBuilder of the dimension) -> AttentionBuilder.
    description : str
    models : tuple of str
        Names of models that attend so, lower case, beside the preset's own.
    """

    build: Callable[[AttentionBuilder], AttentionBuilder]
    description: str
    models: tuple[str, ...]


class AttentionPreset(Enum):
    """What well-known models attend by; also by name, in any case: ``AttentionPreset("bert")``.

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.AttentionPreset.GPT.builder(768).build().causal
    True
    >>> ab.AttentionPreset.LONGFORMER.description
    'a window of 512 and a global token'
    """

    BERT = Preset(
        lambda builder: builder.multi_head(12).dropout(0.1),
        "12 heads, both ways",
        ("bert-base", "bert-base-uncased", "bert-base-cased", "roberta", "roberta-base", "electra"),
    )
    GPT = Preset(
        lambda builder: builder.multi_head(12).dropout(0.1).causal(True),
        "12 heads, causal",
        ("gpt2", "gpt-2", "openai-gpt"),
    )
    LONGFORMER = Preset(
        lambda builder: builder.local_global(256, 1),  # 256 on either side
        "a window of 512 and a global token",
        ("longformer-base-4096", "allenai/longformer-base-4096"),
    )
    PERFORMER = Preset(
        lambda builder: builder.linear(256),
        "linear in the sequence, by 256 random features",
        (),
    )
    FLASH_OPTIMIZED = Preset(
        lambda builder: builder.flash(128),
        "exact, in blocks of 128 keys",
        ("flash", "flash-attention", "flash-attention-2"),
    )
    SWITCH_TRANSFORMER = Preset(
        lambda builder: builder.moe(8, 2),
        "a mixture of 8 experts, the best 2 of each query",
        ("switch", "switch-base-8", "google/switch-base-8"),
    )
    HYPERBOLIC_TREE = Preset(
        lambda builder: builder.hyperbolic(-1.0),
        "by distance in the Poincare ball of curvature -1",
        ("hyperbolic",),
    )
    T5 = Preset(
        lambda builder: builder.cross(12).dropout(0.1),
        "12 heads of a decoder over an encoder's states",
        ("t5-base", "flan-t5-base"),
    )
    VIT = Preset(
        lambda builder: builder.multi_head(12),
        "12 heads over patches of an image",
        ("vit-base", "vit-base-patch16-224", "google/vit-base-patch16-224"),
    )
    SPARSE_TRANSFORMER = Preset(
        lambda builder: builder.sparse("strided"),
        "a window and whole strides of 64",
        (),
    )

    @classmethod
    def _missing_(cls, value: object) -> "AttentionPreset":
        known = {preset.name: preset for preset in cls}
        found = known.get(value.upper().replace("-", "_")) if isinstance(value, str) else None
        if found is None:
            raise InvalidConfigError(f"preset must be one of {', '.join(known)}; got {value!r}")
        return found

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return AttentionPreset, (self.name,)

    @property
    def description(self) -> str:
        """What it is, in a few words.

        Returns
        -------
        str
        """
        return self.value.description

    def builder(self, d_model: int) -> AttentionBuilder:
        """Return a builder with the preset's options, to be built or gone on with.

        Parameters
        ----------
        d_model : int
            Of presets with 12 heads a multiple of 12.

        Returns
        -------
        AttentionBuilder

        Raises
        ------
        InvalidConfigError

        Examples
        --------
        >>> import attnbridge as ab
        >>> ab.AttentionPreset.BERT.builder(768).dropout(0.2).build().dropout
        0.2
        """
        return self.value.build(AttentionBuilder(d_model))


_BY_MODEL = {
    name: preset
    for preset in AttentionPreset
    for name in (preset.name.lower(), preset.name.lower().replace("_", "-"), *preset.value.models)
}


def from_model_name(name: str, d_model: int) -> AttentionBuilder:
    """Return the builder of the preset that a model attends by.

    Parameters
    ----------
    name : str
        Of a model or a preset, in any case.
    d_model : int

    Returns
    -------
    AttentionBuilder

    Raises
    ------
    InvalidConfigError
        An unknown name; the known ones are listed.

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.from_model_name("GPT2", 768).build().causal
    True
    """
    preset = _BY_MODEL.get(name.lower()) if isinstance(name, str) else None
    if preset is None:
        raise InvalidConfigError(f"name must be one of {', '.join(sorted(_BY_MODEL))}; got {name!r}")
    return preset.builder(d_model)


# ---- builders by kind


def scaled_dot(d_model: int) -> AttentionBuilder:
    """Return a builder of `ScaledDotProductAttention`.

    Parameters
    ----------
    d_model : int

    Returns
    -------
    AttentionBuilder

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.scaled_dot(512).build().d_model
    512
    """
    return AttentionBuilder(d_model).scaled_dot()


def multi_head(d_model: int, num_heads: int = 8) -> AttentionBuilder:
    """Return a builder of `MultiHeadAttention`.

    Parameters
    ----------
    d_model : int
    num_heads : int, default 8
        Must divide d_model.

    Returns
    -------
    AttentionBuilder

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.multi_head(768, 12).build().num_heads
    12
    """
    return AttentionBuilder(d_model).multi_head(num_heads)


def flash(d_model: int, block_size: int = 64) -> AttentionBuilder:
    """Return a builder of `FlashAttention`.

    Parameters
    ----------
    d_model : int
    block_size : int, default 64
        Keys at a time.

    Returns
    -------
    AttentionBuilder

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.flash(1024, 128).causal(True).build().block_size
    128
    """
    return AttentionBuilder(d_model).flash(block_size)


def linear(d_model: int, num_features: int | None = None) -> AttentionBuilder:
    """Return a builder of `LinearAttention`.

    Parameters
    ----------
    d_model : int
    num_features : int, optional
        Random features, as of Performers; without them the feature map is elu(x) + 1.

    Returns
    -------
    AttentionBuilder

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.linear(512, 256).build().feature_map
    'favor'
    """
    return AttentionBuilder(d_model).linear(num_features)


def local_global(d_model: int, window: int = 128, num_global_tokens: int = 1) -> AttentionBuilder:
    """Return a builder of `SparseAttention` over a window and global tokens.

    Parameters
    ----------
    d_model : int
    window : int, default 128
        Keys on either side of a query.
    num_global_tokens : int, default 1

    Returns
    -------
    AttentionBuilder

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.local_global(512, 256).build().config["window"]
    256
    """
    return AttentionBuilder(d_model).local_global(window, num_global_tokens)


def hyperbolic(d_model: int, curvature: float = -1.0) -> AttentionBuilder:
    """Return a builder of `HyperbolicAttention`.

    Parameters
    ----------
    d_model : int
    curvature : float, default -1.0
        Negative.

    Returns
    -------
    AttentionBuilder

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.hyperbolic(512, -0.5).build().space.curvature
    -0.5
    """
    return AttentionBuilder(d_model).hyperbolic(curvature)


def moe(d_model: int, num_experts: int = 8, top_k: int = 2) -> AttentionBuilder:
    """Return a builder of `MixtureOfExpertsAttention`.

    Parameters
    ----------
    d_model : int
    num_experts : int, default 8
    top_k : int, default 2
        Experts of a query.

    Returns
    -------
    AttentionBuilder

    Examples
    --------
    >>> import attnbridge as ab
    >>> mixture = ab.moe(64, 4, 2).expert_capacity(1.5).jitter_noise(0.01).build()
    >>> len(mixture.experts), mixture.capacity_factor, mixture.jitter
    (4, 1.5, 0.01)
    """
    return AttentionBuilder(d_model).moe(num_experts, top_k)


# ---- builders by what they are for


def _with_heads(builder: AttentionBuilder, d_model: int, count: int = 12) -> AttentionBuilder:
    """Return a builder of so many heads, or of the next number to it that divides d_model."""
    return builder.num_heads(nearest_divisor(d_model, count))


def for_sequences(d_model: int, max_len: int) -> AttentionBuilder:
    """Return the preset for sequences of a length: to 512 BERT, to 4,096 LONGFORMER, above PERFORMER.

    Parameters
    ----------
    d_model : int
        Where 12 heads do not divide it, their number is the next one to 12 that does.
    max_len : int
        Longer ones are refused.

    Returns
    -------
    AttentionBuilder

    Raises
    ------
    InvalidConfigError

    Examples
    --------
    >>> import attnbridge as ab
    >>> type(ab.for_sequences(768, 4096).build()).__name__
    'SparseAttention'
    """
    length = as_count(max_len, "max_len")
    preset = AttentionPreset.PERFORMER
    if length <= 4096:
        preset = AttentionPreset.BERT if length <= 512 else AttentionPreset.LONGFORMER
    builder = preset.builder(d_model).max_seq_len(length)
    return _with_heads(builder, d_model) if preset is AttentionPreset.BERT else builder


def for_graphs(d_model: int, hierarchical: bool = False) -> AttentionBuilder:
    """Return a builder for the nodes of graphs: of trees hyperbolic attention, else 8 heads.

    Parameters
    ----------
    d_model : int
        Where 8 heads do not divide it, their number is the next one to 8 that does.
    hierarchical : bool, default False

    Returns
    -------
    AttentionBuilder

    Raises
    ------
    InvalidConfigError

    Examples
    --------
    >>> import attnbridge as ab
    >>> type(ab.for_graphs(256, hierarchical=True).build()).__name__
    'HyperbolicAttention'
    """
    if as_bool(hierarchical, "hierarchical"):
        return hyperbolic(d_model)
    return _with_heads(AttentionBuilder(d_model).multi_head(), d_model, 8)


def for_large_scale(d_model: int) -> AttentionBuilder:
    """Return the preset FLASH_OPTIMIZED.

    Parameters
    ----------
    d_model : int

    Returns
    -------
    AttentionBuilder

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.for_large_scale(1024).build().block_size
    128
    """
    return AttentionPreset.FLASH_OPTIMIZED.builder(d_model)


def for_vision(d_model: int, patch_size: int = 16, image_size: int = 224) -> AttentionBuilder:
    """Return the preset VIT for images cut into square patches: sequences may have their number, and one token more.

    Parameters
    ----------
    d_model : int
        Where 12 heads do not divide it, their number is the next one to 12 that does.
    patch_size : int, default 16
        Side of a patch in pixels; must divide image_size.
    image_size : int, default 224
        Side of an image in pixels.

    Returns
    -------
    AttentionBuilder

    Raises
    ------
    InvalidConfigError

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.for_vision(768, patch_size=16).build().max_seq_len
    197
    """
    side, image = as_count(patch_size, "patch_size"), as_count(image_size, "image_size")
    if image % side:
        raise InvalidConfigError(f"patch_size must divide image_size {image}, got {side}; 16 divides 224")
    return _with_heads(AttentionPreset.VIT.builder(d_model), d_model).max_seq_len((image // side) ** 2 + 1)


def for_generation(d_model: int, context_length: int) -> AttentionBuilder:
    """Return the preset for generating text: to 2,048 tokens GPT, above causal FLASH_OPTIMIZED.

    Parameters
    ----------
    d_model : int
        Where 12 heads do not divide it, their number is the next one to 12 that does.
    context_length : int
        Longer sequences are refused.

    Returns
    -------
    AttentionBuilder

    Raises
    ------
    InvalidConfigError

    Examples
    --------
    >>> import attnbridge as ab
    >>> type(ab.for_generation(768, 4096).build()).__name__
    'FlashAttention'
    """
    length = as_count(context_length, "context_length")
    if length > 2048:
        return for_large_scale(d_model).causal(True).max_seq_len(length)
    return _with_heads(AttentionPreset.GPT.builder(d_model), d_model).max_seq_len(length)


def for_moe(d_model: int, num_experts: int = 8, top_k: int = 2) -> AttentionBuilder:
    """Return a builder of a mixture of experts, as `moe` does.

    Parameters
    ----------
    d_model : int
    num_experts : int, default 8
    top_k : int, default 2

    Returns
    -------
    AttentionBuilder

    Examples
    --------
    >>> import attnbridge as ab
    >>> ab.for_moe(64, 4).build().top_k
    2
    """
    return moe(d_model, num_experts, top_k)
