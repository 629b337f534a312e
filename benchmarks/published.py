"""What the published simulator of SpotHedge comes to: the figures that a reproduction is held against.

Source: the policy modules of github MaoZiming/spothedge_ae at df02263 (the artifact of arXiv 2411.01438), run
unmodified with seed 0: windows of 24 hours, three replicas, on-demand at three times the price of spot, a cold
start of 120 s, ticks of 30 s. Availability and cost are in percent, cost of on-demand's; ± is the standard
deviation over windows.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Published:
    """One policy over 200 windows."""

    trace: str
    policy: str
    extra: int
    availability: float
    availability_sd: float
    cost: float
    cost_sd: float


@dataclass(frozen=True, slots=True)
class Varied:
    """SpotHedge over 10 windows with one setting changed; ``setting`` is a field of ``PaperSetting``."""

    trace: str
    setting: str
    value: float
    availability: float
    cost: float


WINDOWS, FEW_WINDOWS, SEED = 200, 10, 0

POLICIES = (
    Published("aws-1", "even-spread", 0, 29.72, 32.44, 19.74, 8.31),
    Published("aws-1", "even-spread", 1, 46.28, 36.96, 26.03, 11.50),
    Published("aws-1", "round-robin", 0, 88.95, 13.88, 30.29, 3.96),
    Published("aws-1", "round-robin", 1, 89.41, 13.70, 40.11, 5.57),
    Published("aws-1", "round-robin-fallback", 1, 99.36, 0.82, 50.98, 8.16),
    Published("aws-1", "spothedge-artifact", 0, 98.84, 1.16, 39.77, 8.37),
    Published("aws-1", "spothedge-artifact", 1, 99.34, 0.85, 50.89, 8.10),
    Published("aws-1", "spothedge-printed", 1, 99.27, 0.60, 66.51, 17.86),
    Published("aws-3", "even-spread", 0, 31.08, 29.43, 21.37, 7.10),
    Published("aws-3", "even-spread", 1, 53.99, 30.56, 28.76, 8.62),
    Published("aws-3", "round-robin", 0, 98.40, 3.69, 33.05, 1.08),
    Published("aws-3", "round-robin", 1, 99.09, 3.48, 44.06, 1.45),
    Published("aws-3", "round-robin-fallback", 1, 99.75, 0.36, 45.22, 2.05),
    Published("aws-3", "spothedge-artifact", 0, 99.25, 0.62, 34.40, 2.97),
    Published("aws-3", "spothedge-artifact", 1, 99.74, 0.38, 45.54, 2.77),
    Published("aws-3", "spothedge-printed", 1, 99.66, 0.48, 45.67, 3.00),
)
"""``spothedge-printed``: the artifact with the paper's rebalancing rule and the fewest placements first."""

VARIED = (
    *(
        Varied(trace, "cold_start_s", value, availability, cost)
        for trace, value, availability, cost in (
            ("aws-1", 60, 99.53, 51.0),
            ("aws-1", 120, 99.22, 51.3),
            ("aws-1", 180, 98.91, 51.6),
            ("aws-1", 240, 98.60, 51.8),
            ("aws-1", 480, 97.43, 52.9),
            ("aws-1", 600, 97.2, 53.3),
            ("aws-3", 60, 99.83, 45.4),
            ("aws-3", 120, 99.71, 45.5),
            ("aws-3", 180, 99.59, 45.7),
            ("aws-3", 240, 99.50, 45.8),
            ("aws-3", 480, 99.02, 46.4),
            ("aws-3", 600, 98.6, 46.5),
        )
    ),
    *(
        Varied(trace, "overprovision", value, availability, cost)
        for trace, value, availability, cost in (
            ("aws-1", 0, 98.73, 40.5),
            ("aws-1", 1, 99.22, 51.3),
            ("aws-1", 2, 99.63, 69.8),
            ("aws-1", 3, 99.95, 88.4),
            ("aws-3", 0, 99.20, 34.4),
            ("aws-3", 1, 99.71, 45.5),
            ("aws-3", 2, 99.79, 56.6),
            ("aws-3", 3, 99.86, 67.7),
        )
    ),
    *(
        Varied(trace, "price_ratio", value, availability, cost)
        for trace, value, availability, cost in (
            ("aws-1", 2, 99.3, 71.2),
            ("aws-1", 4, 99.3, 41.3),
            ("aws-1", 8, 99.3, 26.4),
            ("aws-1", 12, 99.3, 21.5),
            ("aws-3", 2, 99.7, 67.5),
            ("aws-3", 4, 99.7, 34.5),
            ("aws-3", 8, 99.7, 18.1),
            ("aws-3", 12, 99.7, 12.6),
        )
    ),
)

OMNISCIENT = {
    "aws-1": (47.8, 41.7, 42.1, 33.3, 59.7, 33.3, 48.8, 33.3, 33.3, 33.3),
    "aws-3": (33.3, 33.3, 33.3, 33.3, 33.3, 33.3, 33.3, 33.4, 34.2, 38.2),
}
"""The cost of the published integer program, window by window; AWS 3's are only known in order of size."""

OMNISCIENT_MEAN = {"aws-1": 40.7, "aws-3": 34.0}
