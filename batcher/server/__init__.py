"""The local OpenAI-compatible server, for rehearsals, the demo and the tests.

Invariant: its answers follow from the request and its seed alone, and its books count every request.
"""
