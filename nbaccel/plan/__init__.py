"""What is decided: a pure function from a configuration and a machine to a plan, or an error that explains."""

from nbaccel.plan.decide import decide, settle, with_places
from nbaccel.plan.parts import Parts, Topology, choose_parts, topology_of
from nbaccel.plan.plan import Plan, Rendezvous

__all__ = ["Parts", "Plan", "Rendezvous", "Topology", "choose_parts", "decide", "settle", "topology_of", "with_places"]
