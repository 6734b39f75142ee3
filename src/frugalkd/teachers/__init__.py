"""Teachers: live or stored, behind one seam."""

from frugalkd.teachers.average import EMATeacher
from frugalkd.teachers.first_visit import FirstVisitTargets
from frugalkd.teachers.live import LiveTeacher
from frugalkd.teachers.several import SeveralTeachers
from frugalkd.teachers.stored import StoredTargets
from frugalkd.teachers.targets import Targets

__all__ = [
    "EMATeacher",
    "FirstVisitTargets",
    "LiveTeacher",
    "SeveralTeachers",
    "StoredTargets",
    "Targets",
]
