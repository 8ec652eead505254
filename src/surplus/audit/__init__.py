"""The main job: what of your data and your network can go, and what it costs; and pruning by any method."""

from surplus.audit.auditing import Audit, audit
from surplus.audit.prune import prune
from surplus.audit.pruned import Pruned, Pruning
from surplus.audit.settings import AuditSettings, seconds

__all__ = ["Audit", "AuditSettings", "Pruned", "Pruning", "audit", "prune", "seconds"]
