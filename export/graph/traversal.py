"""Traversal of ONNX graphs, whose nodes are stored in the order of computing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import onnx


def tensors_after(nodes: Sequence[onnx.NodeProto], chosen: Collection[str]) -> set[str]:
    """Returns the names of the tensors that depend on some nodes, given by name."""
    return _reached(((n.name, n.input, n.output) for n in nodes), chosen)


def tensors_before(nodes: Sequence[onnx.NodeProto], chosen: Collection[str]) -> set[str]:
    """Returns the names of the tensors that some nodes, given by name, depend on."""
    return _reached(((n.name, n.output, n.input) for n in reversed(nodes)), chosen)


def unrounded_ages(nodes: Iterable[onnx.NodeProto]) -> str:
    """Returns the name of the ages before they are rounded, or `age_years` if they are not."""
    last = next((node for node in nodes if "age_years" in node.output), None)
    return str(last.input[0]) if last is not None and last.op_type == "Round" else "age_years"


def graphs_within(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yields the graphs of a node's attributes: branches and bodies of loops."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yields a graph and all graphs within it."""
    yield graph
    for node in graph.node:
        for inner in graphs_within(node):
            yield from all_graphs(inner)


def name_nodes(model: onnx.ModelProto) -> None:
    """Gives every node a name of its own, in place: that of its first output where it has none."""
    seen: set[str] = set()
    for graph in all_graphs(model.graph):
        for node in graph.node:
            made = next((name for name in node.output if name), node.op_type)
            name = node.name or made
            while name in seen:
                name += f":{made}"
            seen.add(name)
            node.name = name


def names_read(node: onnx.NodeProto) -> set[str]:
    """Returns the tensors that a node reads, also through the graphs within it."""
    read = {name for name in node.input if name}
    for graph in graphs_within(node):
        made = {value.name for value in graph.input} | {t.name for t in graph.initializer}
        for inner in graph.node:
            read |= names_read(inner) - made
            made |= set(inner.output)
        read |= {value.name for value in graph.output} - made
    return read


def _reached(
    nodes: Iterable[tuple[str, Iterable[str], Iterable[str]]], chosen: Collection[str]
) -> set[str]:
    tensors: set[str] = set()
    for name, sources, targets in nodes:
        if name in chosen or not tensors.isdisjoint(sources):
            tensors.update(targets)
    return tensors
