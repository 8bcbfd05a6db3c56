"""The harness that pulls plugs: real processes, real servers, faults at named points, and invariants from outside."""
