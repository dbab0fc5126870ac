def attend(
    heads: int, cache: int, scales: int, out: int, weights: int,
    R: int, n: int, H: int, d: int, start: int, room: int, scale: float, threads: int,
) -> None: ...  # fmt: skip
