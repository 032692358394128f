"""The time of collective calls over a ring, and those of a step (docs/bill.md)."""

from dataclasses import dataclass

from diffpo.runs.dry_run.accelerators import Accelerator, Number


@dataclass(frozen=True)
class Layout:
    """How devices share a run: `nodes` of `devices` each, and shards of the model on `shard` of them.

    Devices of one shard stand side by side, so a shard of at most `devices` stays in a node; the step is shared by all.
    """

    nodes: int = 1
    devices: int = 1
    """Of a node."""
    shard: int = 1
    """Devices that hold one copy of the model together; 1: each holds all of it."""

    @property
    def world(self) -> int:
        """All devices."""
        return self.nodes * self.devices

    @property
    def replicas(self) -> int:
        """Copies of the model."""
        return self.world // self.shard


def all_gather_seconds(num_bytes: Number, ranks: int, bandwidth: Number, latency: Number, calls: int = 1) -> Number:
    """Return the seconds in which each of `ranks` gets all of `num_bytes`, of which each has an equal part.

    Over a ring a rank passes on (n - 1) / n of them, in n - 1 hops. A reduce-scatter takes as long. `calls` is into how
    many calls the bytes are divided; `bandwidth` is in bytes/s in one direction.
    """
    return (ranks - 1) / ranks * num_bytes / bandwidth + calls * (ranks - 1) * latency


def all_reduce_seconds(num_bytes: Number, ranks: int, bandwidth: Number, latency: Number, calls: int = 1) -> Number:
    """Return the seconds in which `ranks` add up `num_bytes` that each has: a reduce-scatter and an all-gather."""
    return 2 * all_gather_seconds(num_bytes, ranks, bandwidth, latency, calls)


def shard_bandwidth(layout: Layout, accelerator: Accelerator) -> Number:
    """Return the bytes/s of a ring over the devices of a shard.

    Between nodes all devices of a node send at a time, each by a network card of its own.
    """
    if layout.shard <= layout.devices:
        return accelerator.link
    return min(accelerator.link, layout.devices * accelerator.network)


def replica_bandwidth(layout: Layout, accelerator: Accelerator) -> Number:
    """Return the bytes/s of a ring over the replicas, one of as many as a shard has devices at the same time."""
    in_node = max(1, layout.devices // layout.shard)
    if layout.replicas <= in_node:
        return accelerator.link
    return min(accelerator.link, in_node * accelerator.network)


@dataclass(frozen=True)
class Traffic:
    """What a step sends."""

    rollout_gathers: Number
    """How often a rollout gathers the whole model: once, or at each call where it is kept in blocks."""
    passes: Number
    """Passes of an update, forward or backward, over one micro-batch; each gathers the model block by block."""
    backwards: Number
    """Backward passes over one micro-batch; each reduces the gradients' shards."""
    steps: int
    """Optimiser steps."""
    weights: Number
    """Bytes of the model in the dtype that is computed with."""
    gradients: Number
    """Bytes of the float32 gradients."""
    blocks: int
    """Calls into which the model is divided."""


def communication_seconds(traffic: Traffic, layout: Layout, accelerator: Accelerator) -> Number:
    """Return the seconds of a step's collective calls, nothing of which is hidden behind arithmetic.

    Replicas add up gradients once an optimiser step. Shards gather weights and, at each backward pass, reduce gradients
    to shards, which replicas then add up.
    """
    shard, replicas, latency = layout.shard, layout.replicas, accelerator.latency
    inner, outer = shard_bandwidth(layout, accelerator), replica_bandwidth(layout, accelerator)
    gathers = traffic.rollout_gathers + traffic.passes
    gathered = gathers * all_gather_seconds(traffic.weights, shard, inner, latency, traffic.blocks)
    scattered = traffic.backwards * all_gather_seconds(traffic.gradients, shard, inner, latency, traffic.blocks)
    added = traffic.steps * all_reduce_seconds(traffic.gradients / shard, replicas, outer, latency)
    return gathered + scattered + added
