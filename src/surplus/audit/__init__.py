"""The main job: what of your data and your network can go, and what it costs."""

from surplus.audit.auditing import Audit, audit
from surplus.audit.settings import AuditSettings, seconds

__all__ = ["Audit", "AuditSettings", "audit", "seconds"]
