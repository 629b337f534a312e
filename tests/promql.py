"""As much of PromQL as is needed to see which metrics, labels and label values an expression names."""

import re
from dataclasses import dataclass, field

_WORD = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_MATCHER = re.compile(r'([a-zA-Z_]\w*)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_NO_METRIC = {
    "sum", "max", "min", "avg", "count", "topk", "rate", "increase", "changes", "time", "clamp_min", "clamp_max",
    "histogram_quantile", "label_values", "and", "or", "unless", "bool", "inf", "nan", "vector", "absent",
}  # fmt: skip


@dataclass
class Named:
    """What an expression names: each metric with its matchers, and the labels that it groups by."""

    metrics: list[tuple[str, list[tuple[str, str, str]]]] = field(default_factory=list)
    groupings: list[str] = field(default_factory=list)


def names_in(expression: str) -> Named:
    """All that an expression names."""
    named = Named()

    def group(match: re.Match[str]) -> str:
        named.groupings += [label.strip() for label in match[2].split(",") if label.strip()]
        return " "

    text = _GROUPING.sub(group, expression)
    at = 0
    while at < len(text):
        if text[at] == "[":  # a duration
            at = text.index("]", at) + 1
        elif text[at] == "{":
            raise ValueError(f"matchers without a metric: {text[at:]}")
        elif word := _WORD.match(text, at):
            at = word.end()
            if word[0].lower() in _NO_METRIC:
                continue
            matchers: list[tuple[str, str, str]] = []
            if text[at : at + 1] == "{":
                end = text.index("}", at)
                matchers = _MATCHER.findall(text[at + 1 : end])
                at = end + 1
            named.metrics.append((word[0], matchers))
        else:
            number = re.compile(r"[0-9.]+").match(text, at)
            at = number.end() if number else at + 1
    return named
