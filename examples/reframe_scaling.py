"""A ReFrame test: how a study scales on this system, against the references of your site.

    reframe --checkpath examples/reframe_scaling.py --run
    reframe --checkpath examples/reframe_scaling.py --run -S study=/path/to/study.yaml -S strategy=tensor -S ranks=4
    reframe --checkpath examples/reframe_scaling.py --run -S runs_dir=/path/to/runs        runs that are there already

It runs the job file with the environment's Python, reports, and reads figures.txt. Figures of ranks that shared cores
and of emulated runs have other names, so that they never pass. Put your site's values into `reference`.
"""

import os

import reframe
from reframe.core.builtins import performance_function, run_before, sanity_function, variable
from reframe.utility import sanity

JOBS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "jobs")


@reframe.simple_test
class ScalingTest(reframe.RunOnlyRegressionTest):
    """Speed-up, efficiency and throughput on one number of ranks."""

    study = variable(str, value=os.path.join(JOBS, "strong.yaml"))
    study_options = variable(str, value="")
    runs_dir = variable(str, value="")
    scaling = variable(str, value="strong")
    strategy = variable(str, value="allreduce")
    ranks = variable(int, value=2)

    valid_systems = ["*"]  # noqa: RUF012
    valid_prog_environs = ["*"]  # noqa: RUF012
    sourcesdir = None
    executable = "python"
    # System: figure: (expected, how much less is tolerated, how much more, unit).
    reference = {"*": {"efficiency": (1.0, -0.3, None, "1")}}  # noqa: RUF012

    @run_before("run")
    def prepare(self):
        """Run the study first, unless its runs are there."""
        if not self.runs_dir:
            options = f"--ranks 1,{self.ranks} {self.study_options}"
            self.prerun_cmds = [f"python -m horovod_flowers.study {self.study} {options}"]
        runs_dir = self.runs_dir or "runs"
        self.executable_opts = ["-m", "horovod_flowers.report", "--runs-dir", runs_dir, "--format", "figures,json"]

    def figure(self, name, unit):
        """A figure of the point; ReFrame tells where there is none, or several."""
        pattern = rf"^{self.scaling}\.\d+\.\w+\.{self.strategy}\.{self.ranks}_ranks\.{name} = (\S+) {unit}$"
        return sanity.extractsingle(pattern, "report/figures.txt", 1, float)

    @sanity_function
    def has_its_figures(self):
        """There is exactly one speed-up of it: no second study in the folder, a baseline, cores for all ranks."""
        pattern = rf"^{self.scaling}\.\d+\.\w+\.{self.strategy}\.{self.ranks}_ranks\.speed_up = \S+ 1$"
        return sanity.assert_eq(
            sanity.count(sanity.findall(pattern, "report/figures.txt")), 1,
            msg="report/figures.txt has {0} speed-ups of this name, not {1}",
        )  # fmt: skip

    @performance_function("1")
    def speed_up(self):
        """Against one rank."""
        return self.figure("speed_up", "1")

    @performance_function("1")
    def efficiency(self):
        """Speed-up a rank."""
        return self.figure("efficiency", "1")

    @performance_function("images/s")
    def images_per_second(self):
        """Training images."""
        return self.figure("images_per_second", "images/s")

    @performance_function("s")
    def median_step_seconds(self):
        """Of the slowest rank."""
        return self.figure("median_step_seconds", "s")

    @performance_function("doubts")
    def doubts(self):
        """Sentences that speak against the figures, such as an outlying run: comments of figures.txt."""
        return self.figure("doubts", "doubts")
