"""The local OpenAI-compatible server, for rehearsals, the demo and the tests.

Invariant: its answers depend only on the request and the seed, and its books count every request.
"""
