"""A tree fits into the hyperbolic plane: in two dimensions, attention by hyperbolic distance finds who belongs to whom.

The tree is Python's own: its exceptions under BaseException. Sarkar's construction (2011) places it in the unit disk,
children around their parent at equal angles, every edge equally long.

Run: python examples/geometric_attention.py
"""

import builtins

import numpy as np

import attnbridge as ab

EDGE = 5.0  # hyperbolic length of an edge; the more children a node has, the longer it must be
space = ab.HyperbolicSpace(-1.0)


def place(kind: type, children: dict[type, list[type]]) -> dict[type, np.ndarray]:
    """Return a point of the disk for each class below one."""
    points, parent_of = {kind: np.zeros(2)}, {}
    for node in (queue := [kind]):
        parent = parent_of.get(node)
        back = 0.0  # the direction in which the parent lies, seen from the node
        if parent is not None:
            away = space.mobius_add(-points[node], points[parent])
            back = np.arctan2(away[1], away[0])
        angles = back + 2 * np.pi * np.arange(1, len(children[node]) + 1) / (len(children[node]) + (parent is not None))
        for child, angle in zip(children[node], angles, strict=True):
            step = np.tanh(EDGE / 2) * np.array([np.cos(angle), np.sin(angle)])
            points[child], parent_of[child] = space.mobius_add(points[node], step), node
            queue.append(child)
    return points


classes = sorted({c for c in vars(builtins).values() if isinstance(c, type) and issubclass(c, BaseException)}, key=str)
children = {c: [d for d in classes if d.__bases__[-1] is c] for c in classes}
points = place(BaseException, children)
kinds = list(points)
X = np.stack(list(points.values()))
linked = np.array([[a.__bases__[-1] is b or b.__bases__[-1] is a for b in kinds] for a in kinds])
leaves = [i for i, kind in enumerate(kinds) if not children[kind]]

others = ~np.eye(len(X), dtype=bool)  # nobody attends to itself
mechanisms = {
    "hyperbolic": ab.HyperbolicAttention(curvature=-1.0),
    "euclidean": ab.GeometricAttention(ab.EuclideanSpace()),
    "cosine": ab.GraphAttention(),
}
first = {name: attention.logits(X, X, others).argmax(axis=1) for name, attention in mechanisms.items()}

print(f"{len(kinds)} exceptions in two dimensions; of {len(leaves)} leaves, the most attended is the parent:")
for name, nearest in first.items():
    print(f"  {name:10} {np.mean([linked[i, nearest[i]] for i in leaves]):6.1%}")

wrong = [i for i in leaves if not linked[i, first["cosine"][i]]]
print(f"\n{'leaf':22} {'hyperbolic':20} cosine")
for i in wrong[-6:]:
    print(f"{kinds[i].__name__:22} {kinds[first['hyperbolic'][i]].__name__:20} {kinds[first['cosine'][i]].__name__}")
