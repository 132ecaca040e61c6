"""Finding out how a run will go: `throwaway` gives a dry run its folder, `telling` is its report; `again` begins a run
anew with fewer rows at once."""
