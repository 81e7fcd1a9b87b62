"""Grading of the assignments: nbgrader for everything but the execution of students' code.

nbgrader releases, collects, keeps the gradebook, and writes feedback and exports.
Where it would execute a notebook together with its tests, this package runs the answers in a
separate, walled-in process that turns inputs into outputs and knows nothing of what is expected.

``seeds``       what varies from student to student
``questions``   what a question is, and how outputs become a verdict
``compare``     properties and comparisons, with messages that do not give the answer away
``codec``       the plain values that cross the wall
``launcher``    runs inside the wall; ``sandbox`` builds the wall and talks to it
``preprocess``  the steps that nbgrader's autograde runs instead of executing notebooks
``course``      one source -> student version, solution, nbgrader course directory
"""
