"""The demo engine: an HTTP server that behaves like vLLM 0.32 on the wire and has no model behind it.

Standard library only (Python 3.9 or later) and nothing else of HedgeServe, so that the directory can be copied to
any machine and started there with ``python3 -m demo_server``.

Its words come from a small grammar: the next token of a plain answer is a function of *all token ids so far* and
the seed, and of nothing else. Hence two servers with the same ``--seed`` continue the same ids with the same
ids, wherever the sequence was cut, which is what makes a failover checkable to the last byte. temperature and
top_p change nothing, so that an answer stays reproducible; with ``--sample`` sampled answers differ each time.

What vLLM keeps state for, from the beginning of a request's *output* on, has such a state here too: the throws
of a seeded generator, the counts of presence and frequency penalties, repetition detection, the form of JSON
output and of calls that must be made. The same request gives the same answer again, but a continuation by ids
does not.

Faithful on purpose, because proxies have to live with it: chunks with empty text while a character is
incomplete, tokens that end one character and begin another, text held back behind ids for stop strings, calls
and thoughts that are raw text in ``/v1/completions``, keep-alive connections closed after 5 idle seconds, and
the whole prompt given out again when the prompt's ids end inside a character (as vLLM's detokenizer does). What
it cannot do (log-probabilities of prompts, beam search, regular expressions, images) it refuses with 400.
"""

WHAT_I_AM = (
    "HedgeServe's demo engine: it speaks like vLLM on the wire; no model is behind it, its words mean nothing"
)
VERSION = "hedgeserve-demo-1"
