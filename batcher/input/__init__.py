"""The input: a table's rows, the prompt that each of them makes, and what tells one row from another.

Invariant: a row is read, rendered and hashed the same way every time; what cannot be read is an `InputError` that names
the file, the row and the column.
"""
