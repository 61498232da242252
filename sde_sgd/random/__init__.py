"""Random numbers that are functions of key, stream, iteration, substep and member."""
