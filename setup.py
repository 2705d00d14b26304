"""Build the optional Cython kernel; everything else is in pyproject.toml.

Without a C compiler the install still succeeds and the NumPy twin of the kernel is used.
"""

from Cython.Build import cythonize
from setuptools import Extension, setup

kernel = Extension(
    "facezoo.metrics._detection_kernel",
    ["common/facezoo/metrics/_detection_kernel.pyx"],
    optional=True,
)
setup(ext_modules=cythonize([kernel], language_level=3))
