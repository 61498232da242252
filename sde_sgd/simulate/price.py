"""What a computation costs, known before it is done."""

import equinox as eqx


class Price(eqx.Module):
    """What a computation will cost.

    **Fields:**

    - `seconds`: wall time, compilation included.
    - `bytes`: memory that it holds at its fullest.
    - `example_gradients`: its work in gradients of one example.
    - `ratio_to_sgd`: that work over the work of one SGD run of `num_steps` iterations.
    """

    seconds: float
    bytes: float
    example_gradients: float
    ratio_to_sgd: float
