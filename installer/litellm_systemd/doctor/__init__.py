"""From symptom to cause to remedy: what is wrong with a gateway, seen from the ground up.

`cause` has the values, `snapshot` what the checks look at, `engine` runs them side by side and tells causes from
consequences. Each `check_…` holds the causes of one group, each beside the small function that looks for it;
`registry` has them all. The tables of causes in docs/troubleshooting.md are made from the same (`docs_table`).
"""
