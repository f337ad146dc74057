"""The input: a table's rows, their prompts, and the hashes by which rows are recognised.

Invariant: a row is read, rendered and hashed the same way every time; unreadable data is an `InputError` that names the
file, the row and the column.
"""
