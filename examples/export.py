"""Export a student, and run the files without Understudy: ``python examples/export.py``.

Needs the extra ``onnx``; the C part needs a compiler and is left out where there is none.
"""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime

import understudy

MAIN = """
#include <stdio.h>
#include "student.h"
int main(void) {
    static student_state state;
    float obs[17] = {0}, action[6];
    student_reset(&state);
    student_act(&state, obs, action);
    for (int i = 0; i < 6; i++) printf("%.4f ", action[i]);
    return 0;
}
"""


def main() -> None:
    """Export the teacher that ships with Understudy as if it were a student."""
    policy = understudy.load(Path(understudy.__file__).parent / "assets" / "demo-teacher.safetensors")
    out = Path("runs/example-export")
    out.mkdir(parents=True, exist_ok=True)
    obs = np.zeros((1, 17), np.float32)
    print("understudy ", policy.predict(obs, deterministic=True)[0].round(4)[0])

    made = understudy.export(policy, "onnx", out / "student.onnx", states=200, force=True)
    session = onnxruntime.InferenceSession(str(made.path))
    print("onnxruntime", session.run(["action"], {"obs": obs})[0].round(4)[0])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["understudy"])
    print("inside the file:", ", ".join(sorted(facts)))

    understudy.export(policy, "c", out / "student.c", states=200, force=True)
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler:
        (out / "main.c").write_text(MAIN)
        subprocess.run([compiler, "-std=c99", "main.c", "student.c", "-o", "student"], cwd=out, check=True)
        print("C          ", subprocess.run(["./student"], cwd=out, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
