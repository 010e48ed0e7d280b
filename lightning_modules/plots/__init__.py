"""The pictures of each task: numbers in, `matplotlib` figures out. Nothing here touches a screen."""
