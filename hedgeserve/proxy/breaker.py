class Breaker:
    def __init__(self):
        self.n = 0

    def failed(self, now_s):
        p = min(1.0 * 2**self.n, 15.0)
        self.n = min(self.n + 1, 8)
        return now_s + p

    def worked(self):
        self.n = 0
