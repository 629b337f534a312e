class V:
    ok = True


class Quotas:
    def __init__(self, **k):
        pass

    def admit(self, *a):
        return V

    def leave(self, k):
        pass

    def settle(self, *a):
        pass
