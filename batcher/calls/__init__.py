"""Calls to a model: one attempt at a time, from messages to a completion or a failure.

Invariant: what a server, the network or a library does becomes a value; only cancellation is raised. No other package
but `server` knows LangChain, OpenAI or HTTP.
"""
