// Opened from disk, a page may not read its neighbours, so the search lists titles without their summaries.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
