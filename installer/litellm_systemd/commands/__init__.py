"""One function for each verb of litellmctl. Each returns a `Report`; none prints.

Each module is imported by the verb that needs it, so that none waits for what others import.
"""
