"""Calls to a model: one attempt at a time, from messages to a completion or a failure.

Invariant: every outcome of a server, the network or a library becomes a value; only cancellation is raised. Besides
this package, only `server` knows LangChain, OpenAI or HTTP.
"""
