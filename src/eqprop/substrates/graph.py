"""Graphs: colourings, so that no two units of one colour interact."""

from collections.abc import Sequence

__all__ = ["colour"]


def colour(count: int, edges: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """A colour for each of `count` nodes, neighbours differing: greedy, breadth first."""
    neighbours: list[set[int]] = [set() for _ in range(count)]
    for i, j in edges:
        neighbours[i].add(j)
        neighbours[j].add(i)
    colours = [-1] * count
    for node in _by_degree(neighbours):
        taken = {colours[other] for other in neighbours[node]}
        colours[node] = next(c for c in range(count) if c not in taken)
    return tuple(colours)


def _by_degree(neighbours):
    """Breadth first from the node of highest degree, so that trees and other bipartite graphs get two colours."""
    seen, order = set(), []
    for root in sorted(range(len(neighbours)), key=lambda n: -len(neighbours[n])):
        queue = [root]
        while queue:
            node = queue.pop(0)
            if node not in seen:
                seen.add(node)
                order.append(node)
                queue.extend(sorted(neighbours[node] - seen))
    return order
