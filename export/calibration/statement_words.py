"""Paragraphs of a statement that are the same whatever was measured."""

from __future__ import annotations

from export.calibration.report import ENOUGH_IN_GROUP

NATURE = """\
This page was computed by `agemoe evaluate --statement` from photographs of people whose age is
known. It is the result of the operator's own test. **It is no certificate, and no independent
body has checked it.** Its sections are named after the characteristics that ISO/IEC 27566-1
lists for age assurance; conformity with that or another standard is not claimed. Its tables have
the shape of those of NIST's Face Analysis Technology Evaluation, Age Estimation and Verification
(FATE AEV), to which this system was not submitted here."""

INTERVALS = f"""\
Square brackets and ± show 95 % confidence intervals: ranges that allow for the number of people
tested. They hold for people, cameras and ages like those tested, not for others. *Few* means
fewer than {ENOUGH_IN_GROUP} people."""

PEOPLE = """\
People are counted: somebody with several photographs counts as passing if any of them passes,
and as referred if any is referred, as if each were a new try. So rates are higher in groups whose
people have more photographs. Intervals are Clopper–Pearson intervals, which are exact for small
numbers, too."""

PRIVACY = """\
The software computes on the operator's own machines; pictures, faces and estimates are sent to
nobody. No picture is stored or logged. It estimates an age and neither recognizes people nor
keeps anything that could. If the operator turns on the audit log of decisions, it holds for each
decision its time, digests of the pictures, of the networks, the tables and the policy, the
outcome and its reasons, and no picture, no name and no age. Whoever has the same picture file can
find out from its digest that it was decided on, unless the operator uses a secret key for the
digests. What is stored around the software, such as a web server's logs, is not covered. These are
properties of the design; no privacy audit was made for this page."""

SECURITY = """\
**Not assessed: whether the system can be deceived.** It estimates the age of the face that it is
shown, be it a living person, a print or a screen. A check for a living person can be connected;
none is included. By design, work on strangers' pictures is bounded in size, memory and time, and
weights are read without executing code from them. The audit log's lines are chained by hashes,
so that a change can be detected. None of this was measured for this page."""

ACCEPTABILITY = """\
**Not assessed:** whether people accept and understand the check, how long it takes them, and
whether it can be used with a disability. The tables above show one part of it: how many people
who are old enough are referred, by group and age. They need another way to prove their age, and
groups that are referred more often carry more of that burden."""

VERSIONS = """\
A hash (SHA-256) is a fingerprint of a file: the figures hold for exactly these files. An
expert's fingerprint also covers its settings and how faces are prepared for it."""

PLACEHOLDERS = """\
**These networks are placeholders: they were not trained on people, and their ages of photographs
are meaningless. Do not use this page.**"""
