"""Who is measured against whom, and each library's own environment."""

import subprocess
import sys
import venv
from dataclasses import dataclass, replace
from pathlib import Path

SCRIPTS = Path(__file__).parent / "peers"


@dataclass(frozen=True)
class Contender:
    """One line of a comparison.

    Attributes:
        name: As the tables call it.
        script: Adapter in `peers/`.
        packages: What pip installs into its environment; none is Reckoner's own environment.
        variant: Passed on to the adapter.
    """

    name: str
    script: str
    packages: tuple[str, ...] = ()
    variant: str = ""

    def python(self, home: Path) -> str:
        """Build the environment where it is missing and return its interpreter.

        Raises:
            RuntimeError: If pip could not install the packages; its log says why.
        """
        if not self.packages:
            return sys.executable
        folder = home / "environments" / self.script.removesuffix("_adapter.py")
        built, log = folder / "built", folder.with_suffix(".log")
        python = str(folder / "bin" / "python")
        if built.exists():
            return python
        print(f"building an environment for {self.name} (minutes)", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        with log.open("w") as out:
            words = [python, "-m", "pip", "install", "--quiet", "pyarrow", *self.packages]
            code = subprocess.run(words, stdout=out, stderr=out, check=False).returncode
        if code:
            raise RuntimeError(f"pip could not install {' '.join(self.packages)}: see {log}")
        built.touch()
        return python


TORCH = "torch==2.13.0"
# Newer ones want NumPy 2, which these libraries do not take.
OLD_ARROW = "pyarrow<20"
REPLAY = Contender("RePlay 0.22.0", "replay_adapter.py", ("replay-rec[torch]==0.22.0", TORCH))
TRAINING = (
    Contender("Reckoner sasrec", "reckoner_adapter.py", variant="sasrec"),
    Contender("Reckoner sasrec, sampled", "reckoner_adapter.py", variant="sasrec:sampled"),
    Contender("Reckoner rearec-erl", "reckoner_adapter.py", variant="rearec-erl"),
    Contender("Reckoner rearec-prl", "reckoner_adapter.py", variant="rearec-prl"),
    Contender("Reckoner plr", "reckoner_adapter.py", variant="plr"),
    Contender("Reckoner lares", "reckoner_adapter.py", variant="lares"),
    REPLAY,
    Contender(
        "RecTools 0.19.0", "rectools_adapter.py", ("rectools[torch]==0.19.0", OLD_ARROW, TORCH)
    ),
    Contender(
        "RecBole 1.2.1",
        "recbole_adapter.py",
        # Its own resolution fails at run time: it needs names that newer releases have dropped.
        ("recbole==1.2.1", "numpy<2", "pandas<3", "scipy<1.14", OLD_ARROW, TORCH),
    ),
)
ACCURACY = (
    *TRAINING[:2],
    REPLAY,
    replace(REPLAY, name="RePlay 0.22.0, our lr and dropout", variant="fast"),
)
QUICK_TRAINING = ("Reckoner sasrec", "RePlay 0.22.0")
SCORING = (
    Contender("Reckoner", "reckoner_adapter.py"),
    Contender("torch matmul + topk", "torch_adapter.py"),
    Contender("implicit", "implicit_adapter.py", ("implicit",)),
    Contender("faiss IndexFlatIP", "faiss_adapter.py", ("faiss-cpu",)),
)
