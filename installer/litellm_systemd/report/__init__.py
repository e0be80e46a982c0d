"""The result of a verb, and its forms: text, JUnit XML, an HTML page."""
