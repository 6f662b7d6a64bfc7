"""The status page: what the sidecar knows, as HTML. docs/decisions/032-status-page.md says how it is made.

``overview``, ``service`` and ``generations`` are pure: from reports to views, which templates only loop over.
"""
