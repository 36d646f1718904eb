"""The scenes of the test player: agents with positions, rewards and ends; nothing of the protocol."""

import numpy as np

DT, SUBSTEPS, GRAVITY = 0.02, 5, 9.81


class Agent:
    """One agent's life: ``look`` before it acts, ``act`` until it returns an end."""

    behavior = "3DBall?team=0"
    continuous, branches = 2, ()

    def __init__(self, seed, limit):
        self.rng, self.limit = np.random.default_rng(seed), limit
        self.begin()

    def begin(self):
        """A plate that is a little tilted, a ball somewhere near its middle."""
        self.steps = 0
        self.tilt = self.rng.uniform(-10, 10, 2) * np.pi / 180
        self.ball = self.rng.uniform(-1.5, 1.5, 2)
        self.speed = np.zeros(2)

    def look(self):
        """[(name, shape, kind, content)]: the 8 numbers of 3DBall."""
        height = 0.5 - self.ball @ np.sin(self.tilt)
        seen = [*self.tilt, self.ball[0], height, self.ball[1], self.speed[0], 0.0, self.speed[1]]
        return [("VectorSensor_size8", (8,), "floats", seen)]

    def mask(self):
        """Choices that are forbidden, of all branches; empty for none."""
        return []

    def act(self, floats, ints):
        """Return the reward and '', 'fell' or 'late'."""
        self.steps += 1
        turn = np.clip(floats, -1, 1) * 2 * np.pi / 180
        self.tilt = np.clip(self.tilt + turn, -0.5, 0.5)
        for _ in range(SUBSTEPS):
            self.speed += 5 / 7 * GRAVITY * np.sin(self.tilt) * DT
            self.ball += self.speed * DT
        if (np.abs(self.ball) > 2.5).any():
            return -1.0, "fell"
        return 0.1, "late" if self.steps >= self.limit else ""


class Chooser(Agent):
    """Two branches; the camera shows which choice of the first is right, another one is forbidden.

    Reward 1 for the right choice of the first branch, 1 for the second branch's choice in the vector; -1 for a
    forbidden one.
    """

    behavior, continuous, branches = "Chooser?team=0", 0, (4, 3)

    def begin(self):
        self.steps = 0
        self._draw()

    def _draw(self):
        self.right, self.other = int(self.rng.integers(4)), int(self.rng.integers(3))
        self.forbidden = (self.right + 1 + int(self.rng.integers(3))) % 4

    def look(self):
        picture = np.zeros((12, 16, 3), np.uint8)
        picture[:, 4 * self.right : 4 * self.right + 4] = (255, 128, 0)
        vector = np.eye(3)[self.other].tolist()
        return [("Camera.Front", (12, 16, 3), "png", picture), ("VectorSensor_size3", (3,), "floats", vector)]

    def mask(self):
        return [i == self.forbidden for i in range(4)] + [False] * 3

    def act(self, floats, ints):
        self.steps += 1
        reward = -1.0 if ints[0] == self.forbidden else float(ints[0] == self.right)
        reward += float(ints[1] == self.other)
        self._draw()
        return reward, "late" if self.steps >= self.limit else ""


class Watcher(Chooser):
    """A chooser whose sensors are in Unity's order, which is not that of bytes: capitals come later there."""

    def look(self):
        (_, *picture), vector = super().look()
        return [("camera", *picture), vector]


class Hybrid(Agent):
    """One number that should be 0.5, one choice that should be 1."""

    behavior, continuous, branches = "Hybrid?team=0", 1, (2,)

    def begin(self):
        self.steps = 0

    def look(self):
        return [("VectorSensor_size1", (1,), "floats", [1.0])]

    def act(self, floats, ints):
        self.steps += 1
        return float(ints[0] == 1) - abs(floats[0] - 0.5), "late" if self.steps >= self.limit else ""


class Goalie(Hybrid):
    """A second behaviour: a number that should be equal to the one that is seen."""

    behavior, continuous, branches = "Goalie?team=1", 1, ()

    def begin(self):
        self.steps, self.wanted = 0, float(self.rng.uniform(-1, 1))

    def look(self):
        return [("VectorSensor_size1", (1,), "floats", [self.wanted])]

    def act(self, floats, ints):
        self.steps += 1
        return -abs(floats[0] - self.wanted), "late" if self.steps >= self.limit else ""


SCENES = {
    "3dball": [Agent],
    "chooser": [Chooser],
    "watcher": [Watcher],
    "hybrid": [Hybrid],
    "two": [Agent, Goalie],
}
