"""The exercises of docs/exercises.md, graded: what each step asks and its right numbers (steps.py), the wrong answers that
people really give (mistakes.py), and a student's file run and judged (grade.py). stubs.txt is the file to begin with."""
