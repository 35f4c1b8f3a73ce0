"""Heads attend to different parts: one looks at a thing's colour, another at its shape; one head alone mixes both.

Run: python examples/multihead_attention.py
"""

import numpy as np

import attnbridge as ab

COLOURS, SHAPES = ["red", "green", "blue", "grey"], ["ball", "cube", "cone", "ring"]
THINGS = ["red cube", "red cone", "green ball", "blue ball", "grey ring", "green cone"]
ASKED = "red ball"  # there is none


def vector(thing: str) -> np.ndarray:
    """Return 8 numbers: one-hot colour, then one-hot shape; each head sees one half."""
    colour, shape = thing.split()
    return 3.0 * np.concatenate([np.eye(4)[COLOURS.index(colour)], np.eye(4)[SHAPES.index(shape)]])


keys = np.stack([vector(thing) for thing in THINGS])
heads = ab.MultiHeadAttention(8, num_heads=2, projections=False)  # without W_q ... W_o, head h reads its slice
single = ab.MultiHeadAttention(8, num_heads=1, projections=False)

query = vector(ASKED)[None]
found = heads.forward(query, keys, keys, need_weights=True, average_attn_weights=False)
by_colour, by_shape = found.weights[:, 0]
alone = single.forward(query, keys, keys, need_weights=True)

print(f"asked for: {ASKED}\n\n{'thing':12} head 0  head 1  one head")
for row in zip(THINGS, by_colour, by_shape, alone.weights[0], strict=True):
    print("{:12} {:6.3f}  {:6.3f}  {:8.3f}".format(*row))

# What comes out: head 0 answers with the mean colour of what it saw, head 1 with the mean shape.
print(f"\n{'output':12} {'  '.join(f'{name:>5}' for name in COLOURS + SHAPES)}")
for name, output in {"two heads": found.output[0], "one head": alone.output[0]}.items():
    print(f"{name:12} {'  '.join(f'{part:5.2f}' for part in output / 3.0)}")

# With projections (the default) each head sees all numbers, through weights of its own; these are as they begin.
learned = ab.MultiHeadAttention(8, num_heads=2, seed=0)
first, second = learned.forward(query, keys, keys, need_weights=True, average_attn_weights=False).weights
apart = np.abs(first - second).max()
print(f"\n{learned.parameter_count} parameters in W_q, W_k, W_v, W_o; the heads' weights differ by up to {apart:.2f}")
