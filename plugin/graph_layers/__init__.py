"""Layers over whole graphs, with the names, arguments and parameters that PyTorch Geometric has for them."""

from attnbridge.graph_layers.dense import MLP
from attnbridge.graph_layers.gat import GATConv
from attnbridge.graph_layers.gatv2 import GATv2Conv
from attnbridge.graph_layers.gin import GINConv
from attnbridge.graph_layers.hetero import HeteroConv
from attnbridge.graph_layers.sage import SAGEConv

__all__ = [
    "MLP",
    "GATConv",
    "GATv2Conv",
    "GINConv",
    "HeteroConv",
    "SAGEConv",
]
