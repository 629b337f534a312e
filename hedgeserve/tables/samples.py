"""What the dashboard's charts show of the past."""

from hedgeserve.tables.database import Database


class SampleTable(Database):
    """One row for each slot of time of each width."""

    async def save_sample(self, width_s: int, start_s: int, data: str) -> None:
        """Keep what was seen in one slot of time; of two for the same slot the later one."""
        await self._run("INSERT OR REPLACE INTO samples VALUES (?, ?, ?)", width_s, start_s, data)

    async def samples(self, width_s: int, *, since_s: int) -> list[tuple[int, str]]:
        """The slots of this width that begin at or after a time (Unix seconds), each with its start, in order."""
        rows = await self._run(
            "SELECT start_s, data FROM samples WHERE width_s = ? AND start_s >= ? ORDER BY start_s",
            width_s, since_s,
        )  # fmt: skip
        return [(row["start_s"], row["data"]) for row in rows]

    async def prune_samples(self, width_s: int, *, before_s: int) -> None:
        """Forget the slots of this width that begin before a time (Unix seconds)."""
        await self._run("DELETE FROM samples WHERE width_s = ? AND start_s < ?", width_s, before_s)
