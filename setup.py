"""What pyproject.toml cannot say: the optional kernel, the recipes in the wheel, the description.

Without a C compiler the install succeeds all the same: the NumPy twin of the kernel is used, and
the wheel is for any platform.
"""

import re
import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# What a recipe needs where it is laid out; deploy/recipes.py finds it in the package.
RECIPES = ("face_*/**/*", "common/utils/*.py", "common/eval/*.py", "images/face_*/**/*")
RECIPES_IN_PACKAGE = Path("facezoo", "recipes")


def recipe_files():
    """List the files of the recipes, without what a user left in a workspace."""
    return [
        path.relative_to(ROOT)
        for pattern in RECIPES
        for path in sorted(ROOT.glob(pattern))
        if path.is_file()
        and path.suffix != ".pyc"
        and (path.parent.name != "workspace" or path.name == ".gitkeep")
        and "workspace" not in path.relative_to(ROOT).parts[:-2]
    ]


def describe():
    """Return the README without links into the repository, which lead nowhere outside of it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"^<img [^>]*>\n|^!\[[^]]*\]\((?!https:)[^)]*\)\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\[([^]]+)\]\((?!https:)[^)]*\)", r"\1", text)
    return re.sub(r"^<!-- facezoo:.*-->\n", "", text, flags=re.MULTILINE)


class BuildWithRecipes(build_py):
    """Copy the recipes into the package; an editable install finds them in the repository."""

    def run(self):
        """Build, then copy."""
        super().run()
        if self.editable_mode:
            return
        for name in recipe_files():
            target = Path(self.build_lib, RECIPES_IN_PACKAGE, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)


class WheelOfWhatWasBuilt(bdist_wheel):
    """Tag the wheel for any platform where the kernel could not be built."""

    def run(self):
        """Try to build the kernel first."""
        self.run_command("build_ext")
        kernels = self.get_finalized_command("build_ext").get_outputs()
        if not any(Path(kernel).exists() for kernel in kernels):
            self.distribution.ext_modules = []
            self.root_is_pure = True
        super().run()


kernel = Extension(
    "facezoo.metrics._detection_kernel",
    ["common/facezoo/metrics/_detection_kernel.pyx"],
    # An overlap on the threshold must round as in NumPy, so multiplications and additions stay two.
    extra_compile_args=["-ffp-contract=off"],
    optional=True,
)
setup(
    # Said here, since pyproject.toml has one form for setuptools below 77 (Python 3.8) and another
    # from there on, and each setuptools warns about or refuses the other's.
    license="Apache-2.0",
    long_description=describe(),
    long_description_content_type="text/markdown",
    ext_modules=[kernel],
    cmdclass={"build_py": BuildWithRecipes, "bdist_wheel": WheelOfWhatWasBuilt},
)
