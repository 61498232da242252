"""What a job of several runs will cost, foreseen before it starts."""

import equinox as eqx


class Price(eqx.Module):
    """What a job of several runs will take, all of them together.

    - `seconds`: wall time, compilation included.
    - `bytes`: memory that the runs hold.
    - `example_gradients`: gradients of single examples, NaN where their number is not known.
    - `ratio_to_sgd`: `seconds` over those of one run of its SGD alone.
    """

    seconds: float
    bytes: float
    example_gradients: float
    ratio_to_sgd: float
