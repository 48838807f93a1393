"""
CLIPS rule engines whose working memory survives their process.

    rules = ClipsEngine(Path("policy.clp").read_text())
    policy = await rt.engines.attach("policy", rules)

    def decide(clips, source):
        clips.assert_fact("exposure", source=source)
        clips.run()
        return [fact["reason"] for fact in clips.facts("denial")]

    answer = await policy.request(decide, "payroll", key="session-7")
"""

from holdfast.core.errors import MissingExtraError

try:
    import clips as _clips
except ImportError as error:
    raise MissingExtraError(feature="a CLIPS engine", extra="clips") from error

from clips import InstanceName, Symbol

from holdfast.adapters.clips.engine import ClipsEngine
from holdfast.adapters.clips.hands import Hands
from holdfast.adapters.clips.values import Fact

__all__ = ["ClipsEngine", "Fact", "Hands", "InstanceName", "Symbol"]

del _clips
