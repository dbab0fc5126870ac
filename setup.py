"""The one part that is compiled; everything else is in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "wvq.prior.decoder._attention",
            ["prior/decoder/attention.c"],
            extra_compile_args=["-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"],
            extra_link_args=["-fopenmp"],
            optional=True,  # without a C compiler torch does the same, more slowly
        )
    ]
)
