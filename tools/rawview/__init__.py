"""Raw views of the media, in the text of DragonFly's hammer(8): the tree, the freemap, a recount of it, the FIFO."""
