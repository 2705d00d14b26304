"""Build the optional Cython kernel; everything else but the licence is in pyproject.toml.

Without a C compiler the install still succeeds and the NumPy twin of the kernel is used.
"""

from Cython.Build import cythonize
from setuptools import Extension, setup

kernel = Extension(
    "facezoo.metrics._detection_kernel",
    ["common/facezoo/metrics/_detection_kernel.pyx"],
    optional=True,
)
# Said here, since pyproject.toml has one form for setuptools below 77 (Python 3.8) and another from
# there on, and each setuptools warns about or refuses the other's.
setup(license="Apache-2.0", ext_modules=cythonize([kernel], language_level=3))
