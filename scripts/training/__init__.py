"""Training of the gate and the resolver: data, loop, adapters, head and calibration."""
