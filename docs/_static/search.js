/* Sphinx lists only pages that have every word of a query. Who pastes an error has words
   in it that no page has, such as names of tables. So each page gets a score (Okapi BM25,
   each word counted once, those of its title twice), and the best are listed. */
"use strict";

if (typeof Search !== "undefined") {
  const pagesOf = (words, word) => [words[word] ?? []].flat();

  /* Pages with the word, or else with words that contain it. */
  const pagesWith = (word) => {
    const { terms, titleterms } = Search._index;
    const found = [terms, titleterms].flatMap((words) => pagesOf(words, word));
    if (found.length || word.length < 3) return new Set(found);
    return new Set(
      [terms, titleterms].flatMap((words) =>
        Object.keys(words)
          .filter((each) => each.includes(word))
          .flatMap((each) => pagesOf(words, each)),
      ),
    );
  };

  /* How many different words each page has. */
  const sizesOf = (pages) => {
    const sizes = Array(pages).fill(0);
    for (const found of Object.values(Search._index.terms))
      for (const page of [found].flat()) sizes[page] += 1;
    return sizes;
  };

  const titleWords = (title) => {
    const stemmer = new Stemmer();
    return new Set(splitQuery(title.toLowerCase()).map((each) => stemmer.stemWord(each)));
  };

  Search.performTermsSearch = (words) => {
    const { docnames, filenames, titles } = Search._index;
    const sizes = sizesOf(docnames.length);
    const usual = sizes.reduce((sum, each) => sum + each, 0) / sizes.length;
    const inTitle = titles.map(titleWords);
    const scores = new Map();
    for (const word of words) {
      const pages = pagesWith(word);
      const rarity = Math.log(1 + docnames.length / (pages.size + 0.5));
      for (const page of pages) {
        const share = 2.2 / (1 + 1.2 * (0.6 + (0.4 * sizes[page]) / usual));
        const score = rarity * share * (inTitle[page].has(word) ? 2 : 1);
        scores.set(page, (scores.get(page) ?? 0) + score);
      }
    }
    const best = Math.max(...scores.values());
    return [...scores]
      .filter(([, score]) => score >= best / 4)
      .map(([page, score]) => [
        docnames[page],
        titles[page],
        "",
        null,
        score,
        filenames[page],
        SearchResultKind.text,
      ]);
  };
}
