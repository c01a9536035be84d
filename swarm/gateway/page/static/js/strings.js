// @ts-check
/** Every word that the page says, in one place: by screen. What nodes and models say is not here, and is shown as text. */
export const STRINGS = {
  page: {
    title: "Local Swarm",
    screens: {
      overview: "Overview",
      chat: "Chat",
      votes: "Votes",
      models: "Models",
      requests: "Requests",
      peers: "Peers",
      performance: "Performance",
    },
  },
};
