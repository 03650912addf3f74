"""The former place of `open_bag`, for scripts that were written before there was `letocc_core.data.bags`."""

from letocc_core.data.bags.reader import Bag, open_bag

__all__ = ["Bag", "open_bag"]
