"""The demo engine: an HTTP server that behaves like vLLM 0.32 on the wire and has no model behind it.

Standard library only (Python 3.9 or later) and nothing else of HedgeServe, so that the directory can be copied to
any machine and started there with ``python3 -m demo_server``.

Its words come from a small grammar: the next token is a function of *all token ids so far* and the seed, and of
nothing else. Hence two servers with the same ``--seed`` continue the same ids with the same ids, wherever the
sequence was cut, which is what makes a failover checkable to the last byte. A request's own ``seed`` counts only
when its ``temperature`` is above zero; temperature itself, top_p and the penalties are accepted and change
nothing, so that an answer stays reproducible. What it cannot do (log-probabilities, tools, several choices,
JSON output) it refuses with 400.

Faithful on purpose, because proxies have to live with it: chunks with empty text while a character is
incomplete, text held back behind ids for stop strings, keep-alive connections closed after 5 idle seconds, and
the whole prompt given out again when the prompt's ids end inside a character (as vLLM's detokenizer does).
"""

WHAT_I_AM = (
    "HedgeServe's demo engine: it speaks like vLLM on the wire; no model is behind it, its words mean nothing"
)
VERSION = "hedgeserve-demo-1"
