"""Teachers: live or stored, behind one interface."""

from frugalkd.teachers.average import EMATeacher
from frugalkd.teachers.filling import FillOptions
from frugalkd.teachers.live import LiveTeacher, ModelTeacher
from frugalkd.teachers.several import SeveralTeachers
from frugalkd.teachers.stored import FirstVisitTargets, StoredTargets
from frugalkd.teachers.targets import Targets

__all__ = [
    "EMATeacher", "FillOptions", "FirstVisitTargets", "LiveTeacher", "ModelTeacher",
    "SeveralTeachers", "StoredTargets", "Targets",
]  # fmt: skip
